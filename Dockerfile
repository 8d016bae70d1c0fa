# The server of one exported model (docs/how-to/deploy.md), without torch:
#
#     docker build --tag kindling-serve .
#     docker run --publish 8000:8000 --env KINDLING_KEY --volume "$PWD/model.onnx:/model.onnx:ro" kindling-serve
FROM python:3.13-slim

WORKDIR /app
COPY requirements-serve.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements-serve.lock
COPY src/__init__.py src/serve.py src/
COPY src/kindling src/kindling
# Who serves cannot write here: bytecode is made now.
RUN python -m compileall -q src && useradd --system --no-create-home server

USER server
EXPOSE 8000
HEALTHCHECK --start-period=10s --timeout=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# As a list: a signal of `docker stop` reaches the server itself, not a shell.
CMD ["python", "-m", "src.serve", "/model.onnx", "--host", "0.0.0.0", "--api-key-env", "KINDLING_KEY"]
