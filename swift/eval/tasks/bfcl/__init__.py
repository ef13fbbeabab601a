"""The Berkeley Function Calling Leaderboard, with the data and the checker of the package bfcl-eval."""
