"""Commands that measure how long something takes, and fail where it takes longer than promised."""
