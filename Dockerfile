# One image for both services: `gateway` (the default) or `relay` as the command.

FROM python:3.13-slim AS build
COPY requirements/runtime.txt /build/
# Only wheels whose hashes the lock names; the environment gets no pip.
RUN python -m venv --without-pip /opt/venv \
    && pip --disable-pip-version-check --no-cache-dir --python /opt/venv/bin/python install \
        --require-hashes --no-deps --only-binary :all: -r /build/runtime.txt
COPY shared /opt/app/shared
COPY relay /opt/app/relay
COPY gateway /opt/app/gateway
COPY deploy/healthcheck.py /opt/app/healthcheck.py
RUN /opt/venv/bin/python -m compileall -q /opt/app

FROM python:3.13-slim
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/app /opt/app
WORKDIR /opt/app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LOG_FORMAT=json ADMIN_HOST=0.0.0.0
USER 10001:10001
# gateway: clients, metrics; relay: health and metrics
EXPOSE 8000 8001 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "healthcheck.py", "/livez"]
ENTRYPOINT ["python", "-m"]
CMD ["gateway"]
