"""One loaded model behind a process boundary: typed messages, a supervised child, and the same core in this process.

`api.ModelRunner` is what the layers above know; `client.RunnerProcess` and `local.LocalRunner` implement it.
"""
