"""The lines of Python that ask this app for answers, of a prefix that no other program can load."""

HEAD = """\
from openai import OpenAI

# Prefix Studio at its usual address; where it asks for an access token, that is the api_key.
client = OpenAI(base_url="http://127.0.0.1:7860/v1", api_key="none")

row = {row}
prompt = {prompt}
"""

PLAIN = """\
answer = client.completions.create(
    model={name!r}, prompt=prompt.rstrip(" "), max_tokens={max_new_tokens}, temperature=0
)
print(answer.choices[0].text.strip())
"""

CHAT = """\
messages = [{{"role": "user", "content": prompt}}]
answer = client.chat.completions.create(
    model={name!r}, messages=messages, max_tokens={max_new_tokens}, temperature=0
)
print(answer.choices[0].message.content.strip())
"""
