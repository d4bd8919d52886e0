"""What is known about finished runs: the ledger that holds them, and the tables over it."""
