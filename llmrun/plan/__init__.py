"""Parameters, FLOPs, memory, time, energy, money: pure functions of a resolved config (no torch)."""
