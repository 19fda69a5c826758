"""What other models reach, to stand beside ours."""

# Accuracy by number of people, as published with Logic-RL (Xie et al. 2025, arXiv 2502.14768) on its
# own knights-and-knaves puzzles. Ours come from another generator, so compare in steps of ten points, not in
# single ones.
PUBLISHED: dict[str, dict[int, float]] = {
    "Qwen2.5-7B-Instruct-1M": {2: 0.49, 3: 0.40, 4: 0.25, 5: 0.11, 6: 0.06, 7: 0.02, 8: 0.01},
    "Qwen2.5-7B-Instruct-1M + Logic-RL": {2: 0.99, 3: 0.99, 4: 0.94, 5: 0.92, 6: 0.91, 7: 0.80, 8: 0.67},
    "GPT-4o": {2: 0.68, 3: 0.57, 4: 0.49, 5: 0.32, 6: 0.23, 7: 0.21, 8: 0.11},
    "o1": {2: 0.83, 3: 0.51, 4: 0.38, 5: 0.38, 6: 0.35, 7: 0.30, 8: 0.20},
    "o3-mini-high": {2: 0.99, 3: 0.98, 4: 0.97, 5: 0.95, 6: 0.94, 7: 0.89, 8: 0.83},
}
