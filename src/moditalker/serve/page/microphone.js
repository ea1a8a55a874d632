// In the audio thread: what the microphone hears, in pieces of about 40 ms.

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(Math.round(sampleRate / 25));
    this.filled = 0;
  }

  process([channels]) {
    const heard = channels[0];
    if (!heard) return true;
    for (const sample of heard) {
      this.piece[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.filled === this.piece.length) {
        const whole = this.piece.slice().buffer;
        this.port.postMessage(whole, [whole]);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
