// As many multiply-adds in registers as the processor can do: twelve independent chains of vectors.
typedef float Vector __attribute__((vector_size(LAMBDA_DET_BYTES)));

extern "C" void multiply_adds(long rounds, float* result) {
  const float zero = *result;
  Vector sums[12], factor = Vector{} + 0.5f + zero, more = Vector{} + 1.0f + zero;
  for (Vector& sum : sums) sum = Vector{} + zero;
  for (long round = 0; round < rounds; ++round)
    for (int i = 0; i < 12; ++i) sums[i] = sums[i] * factor + more;
  for (const Vector& sum : sums) *result += sum[0];
}
