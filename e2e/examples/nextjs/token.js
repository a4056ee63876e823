// app/api/token/route.js: signs a token for whoever your session says is there. It lasts ten minutes; the client asks again
// before it ends.
import { createHmac } from 'node:crypto';

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

export async function GET(request) {
  const user = request.headers.get('x-demo-user'); // your own session goes here
  if (!user) return Response.json({ error: 'who are you?' }, { status: 401 });
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, exp: Math.floor(Date.now() / 1000) + 600 })}`;
  const signature = createHmac('sha256', process.env.FORGEWIRE_TOKEN_SECRET).update(body).digest('base64url');
  return Response.json({ token: `${body}.${signature}` });
}
