// The rival in JavaScript: a BullMQ worker, one undici POST a job. Run as: node drain.mjs SOCKET URL COUNT.
// It is given the best of its settings: 100 jobs at once, jobs removed when done, connections kept.
// When its queue is full it says `filled`, and works once it gets SIGUSR2.

import { Queue, Worker } from 'bullmq';
import { Agent, request } from 'undici';

const CONCURRENCY = 100;
const ADD_AT_ONCE = 1_000;

const [socket, url, count] = process.argv.slice(2);
const connection = { path: socket, maxRetriesPerRequest: null };
const dispatcher = new Agent({ connections: CONCURRENCY });

async function fill() {
  const queue = new Queue('webhooks', { connection });
  for (let first = 0; first < Number(count); first += ADD_AT_ONCE) {
    const size = Math.min(ADD_AT_ONCE, Number(count) - first);
    await queue.addBulk(
      Array.from({ length: size }, (_, index) => ({
        name: 'call',
        data: { url: `${url}${first + index}` },
        // due by the time the worker starts, and in the delayed set, as a timer would be
        opts: { delay: 1, removeOnComplete: true, removeOnFail: true },
      })),
    );
  }
  await queue.close();
}

async function call(job) {
  const { body } = await request(job.data.url, { method: 'POST', dispatcher });
  await body.dump();
}

async function told() {
  const alive = setInterval(() => {}, 1_000); // a signal's listener alone does not keep Node running
  await new Promise((resolve) => {
    process.once('SIGUSR2', resolve);
    console.log('filled');
  });
  clearInterval(alive);
}

await fill();
await told();
const worker = new Worker('webhooks', call, { connection, concurrency: CONCURRENCY });
worker.on('error', (error) => console.error(error));
