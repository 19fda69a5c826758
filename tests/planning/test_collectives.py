"""Collectives are parsed from compiled programs; under FSDP they transfer weights and no activations."""

import dataclasses
from collections import Counter

import jax
import pytest

from jaxrl.learning.mesh import MeshSpec
from jaxrl.planning.collectives import Collective, read_collectives
from jaxrl.planning.lower_learner import lower_update
from jaxrl.training.components import build_components
from jaxrl.training.run_spec import run_spec
from models.config import Qwen2Config

PROGRAM = """\
HloModule example

%body (p: f32[8]) -> f32[8] {
  %gathered = (bf16[2,8]{1,0}, bf16[8,8]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %end = f32[8]{0} all-reduce(%y), replica_groups={{0,1},{2,3}}, to_apply=%add
}

%outer (p: f32[8]) -> f32[8] {
  %inner = f32[8]{0} while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}

%branch (p: f32[8]) -> f32[8] {
  %scattered = ((f32[16]{0}), f32[4]{0}) reduce-scatter-start(%z), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %loop = f32[8]{0} while(%p), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  %open = f32[8]{0} while(%p), condition=%c, body=%branch
  %alone = f32[8]{0} all-reduce(%y), replica_groups={{0},{1}}, to_apply=%add
  %transposed = f32[2,4]{1,0} all-to-all(%y), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  %crossed = f32[4]{0} all-gather(%y), replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}
  ROOT %sent = (f32[4]{0}, f32[4]{0}) collective-permute-start(%y), source_target_pairs={{0,1},{1,0}}
}
"""


def test_kinds_sizes_groups_and_trip_counts():
    assert read_collectives(PROGRAM) == [
        Collective("all-to-all", 32, (0, 4), 1),
        Collective("all-gather", 16, (0, 2), 1),
        Collective("collective-permute", 16, (0, 1), 1),
        Collective("all-gather", 128, (0, 1, 2, 3), 15),
        Collective("all-reduce", 32, (0, 1), 15),
        Collective("reduce-scatter", 64, (0, 2, 4, 6), 1),
    ]


def test_unknown_replica_groups_are_an_error():
    with pytest.raises(ValueError, match="expected a known notation"):
        read_collectives(PROGRAM.replace("{{0,1},{2,3}}", "unknown"))


@pytest.mark.parametrize(("kind", "sent"), [("all-gather", 75), ("all-reduce", 150), ("collective-permute", 100)])
def test_ring_of_four_sends_three_quarters_of_the_array_once_or_twice(kind, sent):
    assert Collective(kind, 100, (0, 1, 2, 3), 7).bytes_sent == 7 * sent


def test_twice_the_tokens_transfer_the_same_weights(small, tmp_path):
    """Only the embedding lookup grows with the number of tokens."""
    config = Qwen2Config(288, 64, 192, 2, 4, 2, 16, max_position_embeddings=256)
    spec = run_spec(small.fields(tmp_path, {"devices": 0, "layout.head_tokens": 1024, "remat": "full"}.items()))
    components = build_components(dataclasses.replace(spec, mesh=MeshSpec(data=1, fsdp=4)), config, 128)
    sent = []
    for rows in (4, 8):
        by_kind = Counter()
        for collective in read_collectives(
            lower_update(components.update, components.abstract_state(), rows, 128)["accumulate"].compile().as_text()
        ):
            by_kind["lookup" if collective.kind == "all-to-all" else "weights"] += collective.bytes_sent
        sent.append(by_kind)
    parameters = sum(x.size for x in jax.tree.leaves(components.abstract_state().params)) * 4
    assert sent[1]["weights"] == pytest.approx(sent[0]["weights"], rel=0.02)
    # Gathered in the forward and backward pass, scattered once, and the head's kernel gathered once more.
    assert 2 * parameters < sent[0]["weights"] < 4 * parameters
