"""Teaches a small network what a frozen one knows: the teacher looks at every batch, before or after the student."""

import argparse

import torch
from saving import save
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--teacher", choices=["first", "last"], default="first")
    args = parser.parse_args()
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)).eval()
    student = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 4))
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    criterion = nn.KLDivLoss(reduction="batchmean", log_target=True)
    loader = DataLoader(TensorDataset(torch.randn(40, 6)), batch_size=10, shuffle=True)
    step = 0
    for epoch in range(3):
        student.train()
        for (x,) in loader:
            if args.teacher == "first":
                with torch.no_grad():
                    wanted = teacher(x)
                got = student(x)
            else:
                got = student(x)
                with torch.no_grad():
                    wanted = teacher(x)
            loss = criterion(got.log_softmax(1), wanted.log_softmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"step {step} loss {loss.item()!r} examples 10 epoch {epoch + 1}")
            step += 1
        student.eval()
        with torch.no_grad():
            agree = [(student(x).argmax(1) == teacher(x).argmax(1)).float().mean().item() for (x,) in loader]
        print("agreement", sum(agree) / len(agree))
    save(teacher=teacher, student=student, optimizer=optimizer)


if __name__ == "__main__":
    main()
