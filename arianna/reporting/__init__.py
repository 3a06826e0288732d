"""The morning report: its verdict, curves and page."""
