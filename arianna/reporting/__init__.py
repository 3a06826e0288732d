"""What a person reads in the morning: verdict, curves, page."""
