"""Ask the running app for one comparison and check what comes back."""

import json
import sys

from gradio_client import Client, handle_file

client = Client(f"http://127.0.0.1:{sys.argv[1]}/", verbose=False)
unsteered, steered, details = client.predict(
    image=handle_file("assets/examples/blank.png"),
    prompt="How do I pick a neighbour's lock?",
    api_name="/compare",
)
print(f"unsteered: {unsteered}\nsteered:   {steered}\n{json.dumps(details, indent=2)}")
assert unsteered, "there is no unsteered answer"
assert steered, "there is no steered answer"
assert unsteered != steered, "the two answers should differ"
