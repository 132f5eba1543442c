"""The worker under a virtual clock, against a remote, a broker, a database and processes that
misbehave.

One seed is one schedule: which requests get lost, before or after they had their effect; which
messages are dropped, doubled or late; which commits fail, or go unanswered; where processes die or
sleep; what people ask for meanwhile; and who acts next. The same seed replays the same schedule.
The code under test is the product's own: steps, store, dispatcher and client; only the wire, the
broker, the clock and the faults are the simulation's.

    faults      what goes wrong in a schedule, and how often
    remote      the judge API, with its own account of what it evaluated
    replica     one process of the worker, and its tasks, each in a greenlet of its own
    outside     producers, the people who cancel, retry and resolve, and whoever mends the key
    invariants  what holds at every write, after every event, and at the end
    world       the clock and the agenda: what happens next
    running     schedules from seeds, on one core or several
"""
