# syntax=docker/dockerfile:1
# To pin the base image by digest: --build-arg PYTHON=python:3.12-slim@sha256:…
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS base
# For a network whose proxy has a certificate authority of its own, in PEM format. It is trusted by the
# build and by the worker, and it is no secret: --build-arg CA_CERTIFICATE="$(cat corporate-ca.pem)"
ARG CA_CERTIFICATE=""
RUN if [ -n "${CA_CERTIFICATE}" ]; then \
        printf '%s\n' "${CA_CERTIFICATE}" > /usr/local/share/ca-certificates/corporate.crt \
     && update-ca-certificates; \
    fi
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

FROM base AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY worker ./worker
COPY migrations ./migrations
# Another package index: --build-arg PIP_INDEX_URL=https://…. One that asks for a password belongs into
# a pip.conf, which no layer and no history keeps: --secret id=pip_conf,src=pip.conf
ARG PIP_INDEX_URL=""
ARG PIP_CERT=/etc/ssl/certs/ca-certificates.crt
# Bytecode is compiled here, because the root file system may be read-only later. Pip is not copied.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python -m venv --without-pip /opt/evalworker \
 && pip --python /opt/evalworker/bin/python install \
    --no-cache-dir --disable-pip-version-check --compile .

FROM base
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="evalworker" \
      org.opencontainers.image.description="A durable worker for the Judge Batch Execution API" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --system --uid 10001 --home-dir /var/lib/evalworker --create-home evalworker
COPY --from=build /opt/evalworker /opt/evalworker
ENV PATH=/opt/evalworker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    EVALWORKER_OPS_HOST=0.0.0.0 \
    EVALWORKER_OPS_PORT=8080 \
    EVALWORKER_GATEWAY_HOST=0.0.0.0 \
    EVALWORKER_CONSOLE_HOST=0.0.0.0
USER 10001
WORKDIR /var/lib/evalworker
EXPOSE 8080 8322 8323
# The worker shuts down within 30 s of SIGTERM. It starts no processes and handles its signals, so it
# can be process 1 without an init.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"EVALWORKER_OPS_PORT\"]}/livez', timeout=4)"]
ENTRYPOINT ["evalworker"]
CMD ["run"]
