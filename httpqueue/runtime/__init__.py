"""What every process needs: logs, metrics, group commit, and waiting for a server that is away."""
