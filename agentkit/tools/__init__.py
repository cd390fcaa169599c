"""What a tool is: what it declares, what its code is, what it reads from outside."""
