"""The worker under a virtual clock, while everything around it misbehaves.

One seed is one schedule: which requests get lost, before or after they had their effect; which
messages are dropped, doubled or late; which commits fail, or succeed without an answer; where
processes die or sleep; what people ask for meanwhile; and which of these happens next. The same
seed replays the same schedule. The code under test is the product's own: steps, store, dispatcher
and client. The simulation has only its own wire, broker, clock and faults.

    faults       what goes wrong in a schedule, and how often
    judge_api    the judge API, with its own account of what it evaluated
    replica      one process of the worker, and its tasks, each in a greenlet of its own
    users        producers, people who cancel, retry and resolve, and the one who mends the key
    invariants   what must hold at every write, after every event, and at the end
    world        the clock and the agenda: what happens next
    fast_engine  as much of SQLAlchemy's engine as the product uses, at less cost
    runner       schedules from seeds, on one core or several
"""
