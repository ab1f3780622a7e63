"""Work that survives the process: jobs in lanes, forwarding, and series that are complete.

`work.Work` is what an app has as ``app.work``. People, and the console, look and intervene by its
`control`: lanes with what waits, runs and has failed, and how old the oldest is; jobs; retry, drop,
pause and resume. `pacsroute.framework.work.WorkControl` describes it, so that the floors above need
nothing of this room:

>>> from pacsroute import App
>>> app = App("ROUTER")
>>> @app.job
... def analyse(uid): ...
>>> with app.test_client():
...     analyse.later("1.2.3")
...     control = app.work_under_way.control
...     [lane.waiting for lane in control.lanes()], [job.lane for job in control.jobs()]
...     control.pause("analyse()"), control.drop(1)
([1], ['analyse()'])
(True, True)
"""
