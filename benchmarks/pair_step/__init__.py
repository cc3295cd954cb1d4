"""What `benchmarks/dpo_step.py` measures: one preference step of this project, of TRL, and of separate rows."""
