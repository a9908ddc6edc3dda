"""What every process needs: logs, metrics, group commit, patience with a server that is away."""
