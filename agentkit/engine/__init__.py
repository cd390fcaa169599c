"""Where definitions, the journal and the guards meet, and the only place with pydantic-ai's run loop."""
