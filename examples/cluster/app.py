"""A node of a cluster: instances in a bucket, their index in PostgreSQL, any number of nodes.

INDEX=postgresql://pacs@db/pacs BUCKET=s3://pacs/archive pacsroute run app.py
"""

import os

from pacsroute import App, Archive

app = App("ARCHIVE")
app.register_blueprint(Archive(os.environ["BUCKET"], index=os.environ["INDEX"]))
