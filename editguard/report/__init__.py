"""Reports: from records to what a person reads."""
