"""Running recipes: one run, a sweep of many, and what they will cost."""
