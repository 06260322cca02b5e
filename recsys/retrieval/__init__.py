"""From sources to candidates: every source's list, fused and pruned."""
