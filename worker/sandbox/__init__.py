"""The sandbox is the judge service with built-in judges that need no model, and with faults.

options     latency, throttling and failures, reproducible by a seed
faults      the layer in front of the service that responds late, wrongly or not at all
server      the service with its layer, in the background or in the foreground
"""
