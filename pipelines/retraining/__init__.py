"""What a schedule needs around a retraining: whose turn it is, when it is due, whom to tell when it failed."""
