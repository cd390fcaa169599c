"""What an agent is: text and functions in, frozen descriptions out; no disk and no network."""
