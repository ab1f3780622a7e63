"""Ten lines that verify and store: pacsroute run examples/hello.py"""

from pacsroute import App

app = App("HELLO")


@app.store
def store(request):
    print("stored", request.save("received"))
