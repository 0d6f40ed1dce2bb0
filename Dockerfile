# docker build -t bnta . && docker run --rm -p 127.0.0.1:8888:8888 bnta
FROM python:3.11.9-slim-bookworm
RUN apt-get update -q && apt-get install -qy --no-install-recommends chromium git make && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home bnta && mkdir /bnta && chown bnta /bnta
ENV VENV=/home/bnta/venv PATH=/home/bnta/venv/bin:$PATH
USER bnta
WORKDIR /bnta
# The packages first: they stay as they are if only the suite changes.
COPY --chown=bnta requirements.txt requirements.hashed.txt ./
RUN python -m venv "$VENV" \
    && pip install --no-cache-dir --no-deps --require-hashes -r requirements.hashed.txt \
    && pip install --no-cache-dir -r requirements.txt
COPY --chown=bnta . .
RUN pip install --no-deps --no-build-isolation -e . && touch "$VENV/.made"
CMD ["python", "-m", "jupyter", "lab", "--ServerApp.ip=0.0.0.0", "--no-browser", "--ServerApp.root_dir=.", \
     "notebooks/00_start_here.ipynb"]
