"""The study page of the report: what was asked, fixed, measured, and what it shows."""
