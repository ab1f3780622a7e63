"""Work that survives the process: jobs in lanes, forwarding, and complete series.

An app has its `work.Work` as ``app.work``. Users and the console inspect and change the queue by
its `control`: it lists lanes, with the number of waiting, running and failed jobs and the age of
the oldest, and single jobs; it can retry and drop jobs, and pause and resume lanes.
`pacsroute.framework.work.WorkControl` describes it, so that higher layers need not import this
package:

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
