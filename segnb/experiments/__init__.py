"""Running recipes: single runs, sweeps, and their estimated cost."""
