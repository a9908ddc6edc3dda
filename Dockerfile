FROM python:3.13-slim AS build

WORKDIR /src
RUN python -m venv /opt/httpqueue
ENV PATH=/opt/httpqueue/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# The packages change less often than the code: a layer of their own.
COPY requirements-build.lock requirements.lock ./
RUN pip install --require-hashes -r requirements-build.lock \
    && pip install --require-hashes --use-pep517 --no-build-isolation -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY httpqueue httpqueue
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip install --no-deps dist/*.whl \
    && pip uninstall --yes setuptools pip


FROM python:3.13-slim

COPY --from=build /opt/httpqueue /opt/httpqueue
RUN groupadd --system --gid 10001 httpqueue \
    && useradd --system --uid 10001 --gid 10001 --no-create-home httpqueue \
    && install --directory --owner 10001 --group 10001 --mode 700 /data
# By number: so an orchestrator can see that it is not root (Kubernetes: runAsNonRoot).
USER 10001:10001
WORKDIR /data
VOLUME /data
ENV PATH=/opt/httpqueue/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HTTPQUEUE_HOST=0.0.0.0 \
    HTTPQUEUE_AUTH=required \
    HTTPQUEUE_DATA_DIR=/data \
    HTTP_PORT=8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:${HTTP_METRICS_PORT:-$HTTP_PORT}/healthz', timeout=3)"
ENTRYPOINT ["httpqueue"]
