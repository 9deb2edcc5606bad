"""Study: pivotal tuning on five characters."""
