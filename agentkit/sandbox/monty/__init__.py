"""The first tier of the sandbox: programs in Monty, inside this process's reach and nobody else's."""
