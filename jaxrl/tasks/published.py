"""Published accuracies of other models on knights-and-knaves puzzles, for comparison."""

# By number of people ("p3": three). Source: Logic-RL (Xie et al. 2025, arXiv 2502.14768), on its own puzzles. Ours come
# from a different generator, so only differences of ten points or more are meaningful.
PUBLISHED: dict[str, dict[str, float]] = {
    "Qwen2.5-7B-Instruct-1M": {"p2": 0.49, "p3": 0.40, "p4": 0.25, "p5": 0.11, "p6": 0.06, "p7": 0.02, "p8": 0.01},
    "Qwen2.5-7B-Instruct-1M + Logic-RL": {
        "p2": 0.99,
        "p3": 0.99,
        "p4": 0.94,
        "p5": 0.92,
        "p6": 0.91,
        "p7": 0.80,
        "p8": 0.67,
    },
    "GPT-4o": {"p2": 0.68, "p3": 0.57, "p4": 0.49, "p5": 0.32, "p6": 0.23, "p7": 0.21, "p8": 0.11},
    "o1": {"p2": 0.83, "p3": 0.51, "p4": 0.38, "p5": 0.38, "p6": 0.35, "p7": 0.30, "p8": 0.20},
    "o3-mini-high": {"p2": 0.99, "p3": 0.98, "p4": 0.97, "p5": 0.95, "p6": 0.94, "p7": 0.89, "p8": 0.83},
}
