"""Long and killed trainings: whether they end as an undisturbed one, and hold no more and more."""
