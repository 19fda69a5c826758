"""What some algorithms add to a step: a critic, a moving reference, greedy completions, refills."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import base
from jaxrl.algorithms.losses import LossSpec
from jaxrl.algorithms.recipes import RECIPES, recipe
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.checkpointing.restore import restore_params
from jaxrl.reporting.metrics import check_record
from jaxrl.reporting.rollouts import read_rollouts, rollout_path
from jaxrl.rewards import Verdict
from jaxrl.sampling import Completions
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.training import step
from jaxrl.training.batch_rows import shaped_rewards
from jaxrl.training.initial_state import first_state, load_weights
from jaxrl.training.progress import Progress, plan_step
from jaxrl.training.replay import replay
from jaxrl.training.rollout import Rollout, groups_with_variance, join_rollouts, score_completions, select_groups
from jaxrl.training.rollout_records import rollout_records
from jaxrl.training.run_spec import run_spec

STEPS = 6
# One run of each; what a line of a config changes.
SETTINGS = {
    "ppo": {
        "algorithm.recipe": "ppo",
        "algorithm.reference.every": 2,
        "algorithm.reference.decay": 0.5,
        "algorithm.minibatches": 2,
        "stages.stage2.fresh_optimizer": True,
        "checkpoint.keep": 9,
    },
    "remax": {"algorithm.recipe": "remax", **{f"stages.stage{stage}.samples": 1 for stage in (1, 2, 3)}},
    "dapo": {"algorithm.recipe": "dapo", "algorithm.refills": 2, "algorithm.overlong_buffer": 0.5},
}


@pytest.fixture(scope="module", autouse=True)
def rare():
    """Only responses to some problems can be correct, so that some groups have equal rewards and others do not."""
    patch = pytest.MonkeyPatch()
    judge = PromptFormat.judge

    def some(self, problem, response, truncated):
        verdict = judge(self, problem, response, truncated)
        rewarded = sum(map(ord, problem.id)) % 2 and len(response) % 2
        return verdict._replace(verdict="correct", reward=3.0 if rewarded else 1.0)

    patch.setattr(PromptFormat, "judge", some)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """`trained(name)`: an undisturbed run of six steps, trained once."""
    made = {}

    def train(name):
        if name not in made:
            made[name] = small.run(small.fields(tmp_path_factory.mktemp(name) / "run", SETTINGS[name]))
            made[name].train()
        return made[name]

    return train


def state_of(run):
    """The full state of the newest checkpoint, with critic and reference."""
    with Checkpoints(run.spec.workdir / "checkpoints") as checkpoints:
        return jax.device_get(checkpoints.restore(run.components.abstract_state())[0])


def rollouts(run, step):
    return read_rollouts(rollout_path(run.spec.workdir / "rollouts", step))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_resumes_exactly(name, small, trained, tmp_path, monkeypatch):
    """Law 2 for the state of each algorithm: killed while step 4 is scored, then resumed."""
    fields = small.fields(tmp_path / "run", SETTINGS[name])
    real = step.make_batch

    def dies(rollout, longest):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(rollout)
        return real(rollout, longest)

    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(step, "make_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            small.run(fields).train()
    again, whole = small.run(fields), trained(name)
    again.train()
    assert small.numbers(tmp_path / "run") == small.numbers(whole.spec.workdir)
    assert rollouts(again, 4) == rollouts(whole, 4)
    jax.tree.map(np.testing.assert_array_equal, state_of(again), state_of(whole))


def test_the_critic_learns_from_the_first_step(small, trained):
    run = trained("ppo")
    numbers, state = small.numbers(run.spec.workdir), state_of(run)
    assert numbers[1]["critic/value"] != 0 and numbers[1]["critic/explained_variance"] == 0  # it predicted 0 before
    assert all(record["critic/gradient_norm"] > 0 for record in numbers[1:])
    assert 0 < np.abs(state.critic.params["value_head"]["vector"]).max() < 0.1
    assert (state.critic.params["embed"]["embedding"] != state.params["embed"]["embedding"]).any()
    assert state.step == 2 * STEPS  # two optimizer steps per rollout


def test_the_guards_factor_scales_all_learning_rates(small, trained):
    """With a factor of 0 neither the policy nor the critic moves."""
    run = trained("ppo")
    progress = Progress(step=STEPS - 1, stage_step=1, stage=2, learning_rate_scale=0.0)
    plan = plan_step(run.spec.stages, progress, run.spec.seed)
    with Checkpoints(run.spec.workdir / "checkpoints") as checkpoints:
        state = checkpoints.restore(run.components.abstract_state())[0]
    before = jax.device_get(state)
    after, record, _ = small.take_step(run, state, None, plan)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.critic.params), before.critic.params)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.params), before.params)
    assert record["guard/learning_rate_scale"] == record["learning_rate"] == 0 < record["critic/gradient_norm"]


def test_a_moving_reference_moves_half_way_every_second_step(small, trained):
    run = trained("ppo")
    weights = [load(run, step) for step in range(0, STEPS + 1, 2)]
    expected = weights[0]
    for later in weights[1:]:
        expected = 0.5 * expected + 0.5 * later
    found = np.asarray(state_of(run).reference["embed"]["embedding"])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert (found != weights[0]).any() and (found != weights[-1]).any()


def load(run, step):
    """The embedding after a step."""
    if step == 0:
        return np.asarray(load_weights(run.components, run.model_folder)["embed"]["embedding"])
    return np.asarray(restore_params(run.spec.workdir, run.components.config, step)[0]["embed"]["embedding"])


def test_samples_beyond_those_of_the_stage_are_greedy(trained):
    """ReMax: greedy samples are equal for any sample index; the samples of the stage differ."""
    run = trained("remax")
    plan = plan_step(run.spec.stages, Progress(), run.spec.seed)
    state = first_state(run.components, run.spec, run.model_folder)
    _, completions = run.step.responses.complete(state, plan, np.array([0, 1]), np.array([0, 1, 2]))
    sampled, greedy, same = (completions.tokens[[index, index + 3]] for index in range(3))
    assert (greedy == same).all() and (sampled != greedy).any()


def test_the_greedy_completion_is_the_baseline_and_not_a_row_of_the_update(small, trained):
    run = trained("remax")
    for record in small.numbers(run.spec.workdir)[1:]:
        advantages = [group.responses[0].advantage for group in rollouts(run, record["step"])]
        assert {len(group.responses) for group in rollouts(run, record["step"])} == {1}
        # the KL of one token is in it too, and small here
        assert np.mean(advantages) == pytest.approx(record["reward/mean"] - record["reward/greedy"], abs=0.01)
        assert "groups/no_variance" not in record


def test_groups_with_equal_rewards_are_replaced_by_other_problems(small, trained):
    run, refills = trained("dapo"), []
    for record in small.numbers(run.spec.workdir)[1:]:
        groups = rollouts(run, record["step"])
        learned = [group for group in groups if group.responses[0].advantage is not None]
        varied = [group for group in groups if len({response.reward for response in group.responses}) > 1]
        assert learned == varied[:4] and varied
        assert len({group.problem for group in groups}) == len(groups) == record["groups/collected"]
        assert record["groups/dropped"] == len(groups) - len(learned)
        assert len(learned) == 4 or len(groups) == 6 or record["groups/refills"] == 2  # full, pool empty, or limit
        refills.append(record["groups/refills"])
    assert max(refills) > 0


def test_a_step_whose_groups_are_all_dropped_changes_nothing(small, trained, tmp_path, monkeypatch):
    """All rewards are equal except for the length penalty: no bit of the state may change."""
    run = trained("dapo")
    judge = PromptFormat.judge
    monkeypatch.setattr(PromptFormat, "judge", lambda *arguments: judge(*arguments)._replace(reward=1.0))
    plan = plan_step(run.spec.stages, Progress(step=STEPS - 1, stage_step=1, stage=2), run.spec.seed)
    with Checkpoints(run.spec.workdir / "checkpoints") as checkpoints:
        state = checkpoints.restore(run.components.abstract_state())[0]  # with moments that would move it
    before = jax.device_get(state)
    after, record, collected = small.take_step(run, state, None, plan)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), before)
    assert record["groups/dropped"] == record["groups/collected"] == 6 and record["tokens/update"] == 0
    check_record(record)
    records = rollout_records(plan, collected, run.problem_set.prompt_format)
    advantages = {response.advantage for group in records for response in group.responses}
    assert advantages == {None}


@pytest.mark.parametrize(("minibatches", "exact"), [(1, True), (2, False)])
def test_one_update_per_rollout_has_a_ratio_of_one_with_the_kl_in_the_reward(small, tmp_path, minibatches, exact):
    """In bfloat16 the log-probabilities of another program differ from those of the update."""
    run = small.run(
        small.fields(
            tmp_path / "run",
            {"algorithm.recipe": "reinforce_pp", "dtype": "bfloat16", "algorithm.minibatches": minibatches},
        )
    )
    plan = plan_step(run.spec.stages, Progress(), run.spec.seed)
    state = first_state(run.components, run.spec, run.model_folder)
    reference = load_weights(run.components, run.model_folder)
    _, record, collected = small.take_step(run, state, reference, plan)
    assert collected.batch.ref_logp is not None and (collected.batch.old_logp is None) == exact
    assert (record["ratio/mean"] == 1) == exact


def test_spare_problems_are_all_others_in_an_order_that_depends_on_the_step(trained):
    run = trained("dapo")
    orders = []
    for number in range(8):
        plan = plan_step(run.spec.stages, Progress(step=number, stage_step=number), run.spec.seed)
        order = run.problem_set.select(plan, with_spare=True)
        np.testing.assert_array_equal(order[:4], run.problem_set.select(plan))
        assert sorted(order) == list(range(6))
        orders.append(tuple(order[4:]))
    assert len(set(orders)) > 1


def test_a_completion_of_a_refill_is_replayed(trained):
    run = trained("dapo")
    assert len(rollouts(run, 1)) > 4
    found = replay(run, 1, 4, 1)
    assert found.identical and found.stored.text == rollouts(run, 1)[4].responses[1].response


def completions(rows, length=3):
    ones = np.ones((rows, length), np.float32)
    return Completions(
        np.arange(rows)[:, None] * np.ones((1, length), np.int32),
        np.full(rows, length, np.int32),
        np.ones(rows, bool),
        ones,
        ones,
        0.5,
    )


VERDICT = Verdict("correct", (), 0.0, 0.0, 1.0, "strict-1", ())


class FirstTokenFormat:
    """Judges a response by its first token."""

    def decode(self, tokens):
        return str(tokens[0])

    def judge(self, problem, response, truncated):
        return VERDICT._replace(reward=float(response))

    def check_reasoning(self, problem, response):
        return f"reasoning {response}"


def test_groups_are_split_joined_and_selected_with_all_their_fields():
    scored = score_completions(["a", "b"], np.array([5, 3]), [[1], [2]], completions(6), 2, FirstTokenFormat())
    assert scored.rewards.tolist() == [[0, 1], [3, 4]] and scored.greedy.tolist() == [2, 5]
    assert scored.greedy_lengths.tolist() == [3, 3]
    assert scored.completions.tokens[:, 0].tolist() == [0, 1, 3, 4] and scored.responses == ["0", "1", "3", "4"]
    assert scored.reasoning == [f"reasoning {row}" for row in (0, 1, 3, 4)]
    both = join_rollouts([scored, scored._replace(problems=["c", "d"])])
    chosen = select_groups(both, np.array([3, 0]))
    assert chosen.problems == ["d", "a"] and chosen.prompts == [[2], [1]] and chosen.greedy.tolist() == [5, 2]
    assert chosen.greedy_lengths.tolist() == [3, 3]
    assert chosen.rewards.tolist() == [[3, 4], [0, 1]]
    assert chosen.completions.tokens[:, 0].tolist() == [3, 4, 0, 1]
    assert chosen.reasoning == [f"reasoning {row}" for row in (3, 4, 0, 1)]
    assert groups_with_variance(np.array([[1, 1], [0, 1], [2, 2]])).tolist() == [1]


def test_the_length_penalty_counts_tokens():
    """With a limit of 10 and a buffer of half of it, 8 tokens cost 0.6 for any number of characters."""
    lengths = np.array([5, 8, 10, 2], np.int32)
    rollout = Rollout(
        np.arange(2), ["a", "b"], [[1], [2]], completions(4)._replace(lengths=lengths), [""] * 4, [VERDICT] * 4
    )
    loss = recipe("dapo", overlong_buffer=0.5)
    np.testing.assert_allclose(shaped_rewards(rollout, loss, 10)[0], [[1, 0.4], [0, 1]], rtol=1e-6)
    assert rollout.rewards.tolist() == [[1, 1], [1, 1]] and shaped_rewards(rollout, loss, 10)[1] is None
    assert (shaped_rewards(rollout, RECIPES["grpo"], 10)[0] == 1).all()
    greedy = rollout._replace(greedy=np.array([3, -1], np.float32), greedy_lengths=np.array([9, 5], np.int32))
    np.testing.assert_allclose(shaped_rewards(greedy, loss, 10)[1], [2.2, -1], rtol=1e-6)  # the baseline too
    assert shaped_rewards(greedy, RECIPES["remax"], 10)[1].tolist() == [3, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm.reference.every": 5, "algorithm.recipe": "dapo"}, "does nothing without a KL"),
        ({"algorithm.reference.decay": 0.9}, "decay=0.9 has no effect with every=0"),
        ({"algorithm.surrogate": "ppo"}, "surrogate: expected one of clip, .* got 'ppo'"),
        ({"algorithm.advantage": "gae"}, "advantage: expected one of group_zscore, .* got 'gae'"),
        ({"algorithm.refills": 2}, "only with drop_equal=True"),
        ({"algorithm.kl": "k1"}, "k1 in the loss has no gradient"),
        ({"stages.stage2.samples": 1}, "stage2.samples: expected 2 or more"),
        ({"stages.stage2.samples": 1, "algorithm.recipe": "ppo", "algorithm.drop_equal": True}, "expected 2 or more"),
    ],
)
def test_invalid_settings_are_errors_before_anything_runs(small, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_spec(small.fields(tmp_path / "run", changes))


def test_every_field_of_a_recipe_is_in_the_config():
    """Except those that a stage sets: the KL coefficient and the limit of new tokens."""
    fields = {field.name for field in dataclasses.fields(LossSpec)} - {"kl_coefficient", "max_length"}
    assert fields <= set(base.get_run().algorithm)


def test_a_recipe_is_changed_field_by_field(small, tmp_path):
    """One line for the recipe of a paper, and one for each field that differs."""
    spec = run_spec(
        small.fields(
            tmp_path / "run",
            {
                "algorithm.recipe": "ppo",
                "algorithm.kl": "k2",
                "algorithm.entropy_coefficient": 0.01,
                "algorithm.advantage": "leave_one_out",
                "algorithm.surrogate": "likelihood",
                "stages.stage2.kl_coefficient": 0.3,
            },
        )
    )
    row = recipe(
        "ppo", kl="k2", entropy_coefficient=0.01, max_length=8, advantage="leave_one_out", surrogate="likelihood"
    )
    assert spec.algorithm.loss == row
    assert [stage.kl_coefficient for stage in spec.stages] == [row.kl_coefficient, 0.3, row.kl_coefficient]


@pytest.mark.parametrize(
    ("changes", "inherited"),
    [
        ({}, ("opt_state", "critic")),
        ({"algorithm.recipe": "grpo"}, ("opt_state",)),
        ({"optimizer.kind": "sgd", "algorithm.recipe": "remax"}, ()),
    ],
)
def test_a_run_that_starts_from_another_inherits_its_moments_and_its_critic(
    small, trained, tmp_path, changes, inherited
):
    """Bit for bit, if it has them itself: a single stage then starts as it does in a run of several."""
    source = trained("ppo")
    fields = small.fields(tmp_path / "run", SETTINGS["ppo"] | {"init_from": str(source.spec.workdir)} | changes)
    run = small.run(fields)
    state, then = first_state(run.components, run.spec, run.model_folder), state_of(source)
    alone = run.components.init_state(load_weights(run.components, run.model_folder))
    for part in ("opt_state", "critic"):
        mine, theirs = jax.tree.leaves(getattr(state, part)), jax.tree.leaves(getattr(then, part))
        same = len(mine) == len(theirs) and all(map(np.array_equal, mine, theirs))
        assert same == (part in inherited), part
        assert len(mine) == len(jax.tree.leaves(getattr(alone, part)))
    assert int(state.step) == 0
