"""What stands between an agent and the world: approvals and questions."""
