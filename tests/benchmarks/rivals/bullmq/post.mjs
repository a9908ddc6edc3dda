// The rival of POST /timers in JavaScript: Node's http and one BullMQ `add` a request. Run as: node post.mjs SOCKET.
// It checks no more than that the body is JSON, answers when the job is stored, and prints the port it listens on.

import { createServer } from 'node:http';
import { Queue } from 'bullmq';

const [socket] = process.argv.slice(2);
const connection = { path: socket }; // faster than with enableAutoPipelining
const defaultJobOptions = { removeOnComplete: true, removeOnFail: true };
const queue = new Queue('webhooks', { connection, defaultJobOptions });

async function post(timer) {
  const job = await queue.add('call', { url: timer.url }, { delay: timer.seconds * 1_000 });
  return JSON.stringify({ id: job.id, due: new Date(job.timestamp + job.delay).toISOString() });
}

function answer(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

const server = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', async () => {
    try {
      answer(response, 201, await post(JSON.parse(Buffer.concat(parts))));
    } catch (error) {
      answer(response, 500, JSON.stringify({ error: String(error) }));
    }
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
