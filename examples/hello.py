"""The shortest server that answers C-ECHO and C-STORE: pacsroute run examples/hello.py"""

from pacsroute import App

app = App("HELLO")


@app.store
def store(request):
    print("stored", request.save("received"))
