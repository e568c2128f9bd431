# A worker. Build: docker build -t dialwatch .   Run: docker run --env-file .env -p 6066:6066 dialwatch
FROM python:3.12-slim AS build
WORKDIR /build
COPY requirements.lock pyproject.toml README.md ./
RUN sed -n '/^setuptools==/,/# via/p' requirements.lock > build.lock \
    && pip install --no-cache-dir --require-hashes --requirement build.lock
COPY app app
COPY agents agents
COPY streams streams
COPY tables tables
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist .

FROM python:3.12-slim
WORKDIR /dialwatch
COPY image.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement image.lock
COPY --from=build /build/dist dist
RUN pip install --no-cache-dir --no-deps --no-index dist/*.whl && rm -r dist \
    && useradd --create-home dialwatch && mkdir /data && chown dialwatch /data
USER dialwatch
ENV DIALWATCH_DATADIR=/data DIALWATCH_WEB_HOST=0.0.0.0
VOLUME /data
EXPOSE 6066
# Of a worker. Another command of this image needs another one, or --no-healthcheck.
HEALTHCHECK CMD ["python", "-m", "app.health"]
ENTRYPOINT ["dialwatch"]
CMD ["worker"]
