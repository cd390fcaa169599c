"""The process that outlives the kernel and ends the model requests that the kernel began."""
