"""What a run tells its people: metrics, the terminal, stored rollouts, behaviours, the report page."""
