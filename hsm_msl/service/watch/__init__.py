"""What people see of a running service: metrics, health, logs, audit records."""
