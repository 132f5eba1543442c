# syntax=docker/dockerfile:1
# Pin by digest where it matters: --build-arg PYTHON=python@sha256:…
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY worker ./worker
COPY migrations ./migrations
RUN python -m venv /opt/evalworker \
 && /opt/evalworker/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM ${PYTHON}
LABEL org.opencontainers.image.title="evalworker" \
      org.opencontainers.image.description="A durable worker for the Judge Batch Execution API" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 10001 --home-dir /var/lib/evalworker --create-home evalworker
COPY --from=build /opt/evalworker /opt/evalworker
ENV PATH=/opt/evalworker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    EVALWORKER_OPS_HOST=0.0.0.0 \
    EVALWORKER_OPS_PORT=8080
USER evalworker
WORKDIR /var/lib/evalworker
EXPOSE 8080
# SIGTERM ends in order within 30 s; the worker starts no processes, so it can be the first one.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"EVALWORKER_OPS_PORT\"]}/livez', timeout=4)"]
ENTRYPOINT ["evalworker"]
CMD ["run"]
