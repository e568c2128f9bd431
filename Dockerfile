# A worker. Build: docker build -t dialwatch .   Run: docker run --env-file .env -p 6066:6066 dialwatch
FROM python:3.12-slim
WORKDIR /dialwatch
COPY requirements.lock pyproject.toml README.md ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY app app
COPY agents agents
COPY streams streams
COPY tables tables
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --create-home dialwatch && mkdir /data && chown dialwatch /data
USER dialwatch
ENV DIALWATCH_DATADIR=/data DIALWATCH_WEB_HOST=0.0.0.0
VOLUME /data
EXPOSE 6066
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:6066/health', timeout=3)"]
ENTRYPOINT ["dialwatch"]
CMD ["worker"]
