"""What Forgewire began as, for `forgewire bench http --sketch`: the guide's pool and cache, built as well as it allows.

It listens on 127.0.0.1:PORT with two workers, and finds its servers by DATABASE_URL and VALKEY_URL. The benchmark makes
its tables. Like the bare handler it has no key, no tenant, no limits, no metrics.
"""

import asyncio
import json
import os

import asyncpg
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import HiredisParser

WORKERS = 2
POOL = 35 // WORKERS  # the guide's 20 and an overflow of 15, which a replica has in one process
CACHED = 86_400  # seconds


class Connection(asyncpg.Connection):
    async def reset(self, *, timeout=None):
        """Nothing: a transaction leaves nothing behind, and resetting is one more round trip for each use."""


class Prompt(BaseModel):
    name: str
    template: str


app = FastAPI()


@app.on_event("startup")
async def start():
    app.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=POOL, max_size=POOL, connection_class=Connection)
    # Blocking, since the other pool makes an error of the 51st at once.
    app.cache = Redis(connection_pool=BlockingConnectionPool.from_url(os.environ["VALKEY_URL"], max_connections=50, parser_class=HiredisParser))


@app.on_event("shutdown")
async def stop():
    await app.cache.connection_pool.disconnect()
    app.pool.terminate()  # nobody waits for an answer


def answer(row, status=200):
    return Response(json.dumps(dict(row), default=lambda at: at.isoformat()), status, media_type="application/json")


async def read(id):
    async with app.pool.acquire() as conn, conn.transaction():
        return answer(await conn.fetchrow("SELECT * FROM public.bench_sketch WHERE id = $1", id))


@app.get("/readyz")
async def readyz():
    await asyncio.gather(app.pool.fetchval("SELECT 1"), app.cache.ping())
    return "ready"


@app.get("/cached/{id}")
async def cached(id: str):
    key = "bench_sketch:" + id
    body = await app.cache.get(key)
    if body is not None:
        return Response(body, media_type="application/json")
    response = await read(id)
    await app.cache.set(key, response.body, ex=CACHED)
    return response


@app.get("/select/{id}")
async def select(id: str):
    return await read(id)


@app.post("/insert")
async def insert(prompt: Prompt):
    async with app.pool.acquire() as conn, conn.transaction():
        made = await conn.fetchrow("INSERT INTO public.bench_floor (name, template) VALUES ($1, $2) RETURNING id, name, template, created_at", prompt.name, prompt.template)
    return answer(made, 201)


if __name__ == "__main__":
    uvicorn.run("sketch:app", port=int(os.environ["PORT"]), workers=WORKERS, loop="uvloop", http="httptools", lifespan="on", access_log=False, log_level="warning")
