"""Every SQL statement of the worker, one function per transition.

The functions take a `Transaction` and never commit; `Database.run` opens it, commits it, and
tells the log what happened once it did. Each transition is one guarded statement: where no row
moves, the caller is stale and does nothing.

    planning    waiting items become batches
    submitting  a batch on its way to the remote
    polling     a batch at the remote, up to its results
    settling    what an item's end means for its job
    notices     that a job has ended, to whom its producer named
    gates       what must wait because the API, one judge, or a person says so
    jobs        how far jobs are, and what came out of them
    changing    what a person changes about a job: cancel, retry
    viewing     what people look at beyond it: batches, history, the work of each judge
    pruning     what has ended long ago is deleted
"""
