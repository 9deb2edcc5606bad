"""Study: how far to finetune."""
